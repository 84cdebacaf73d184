"""Generated protobuf messages of etcd's API (`make proto`)."""
