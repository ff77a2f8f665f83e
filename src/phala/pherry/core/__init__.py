"""What pherry does next, without doing it."""
