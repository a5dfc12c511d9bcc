"""What a checkout uses and the image does not contain: demo, private servers, Docker, mail catcher."""
