"""How a bank keeps its tables: in memory, in files, on a device, over ranks. Private."""
