"""Events and commands to protocol messages and back, without I/O."""
