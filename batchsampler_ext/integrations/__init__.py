"""One module per framework. Each imports its framework, so import the module that you need by name."""
