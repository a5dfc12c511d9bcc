"""What was published stays readable for every subscriber."""
