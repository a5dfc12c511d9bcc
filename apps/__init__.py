"""The services of Chorus and its command line."""
