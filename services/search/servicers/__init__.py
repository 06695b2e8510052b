"""The contracts' doors onto the use cases. They only translate."""
