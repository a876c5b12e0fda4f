"""What the integration tests share. On the import path as `integration_support`."""
