"""The headless command, `mist`: from flags to what is done."""
