"""One page that an artist can read: everything in one file, no network, pictures inside."""
