"""`mist bench --gpu`: all that a graphics card must show, in parts, each in a process and a time of its own."""
