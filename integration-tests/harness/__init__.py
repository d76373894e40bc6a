"""What the tests share: the server under test, clients, contracts and broken models."""
