"""Small tasks that make their own data, and the small model that learns them."""
