"""Private: the tables of a bank in memory, in files and on a device, and gathering over ranks."""
