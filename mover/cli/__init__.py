"""The command line: commands, tables, progress. Decides nothing about bytes."""
