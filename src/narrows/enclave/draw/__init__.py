"""What a request makes of the built-in model's draw."""
