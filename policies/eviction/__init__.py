"""What to forget first, decided per noise state."""
