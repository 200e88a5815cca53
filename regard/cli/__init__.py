"""The command line: one file per command, each over one public call."""
