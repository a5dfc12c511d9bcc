"""What holds the code together: rules about its shape, checked on its syntax trees, and pages checked against it."""
