"""Makes each service's OpenAPI and AsyncAPI documents from the declarations in the code, once per release."""
