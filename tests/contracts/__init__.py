"""What was published stays readable, by everybody who hears it."""
