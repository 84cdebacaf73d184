"""Load beside a real etcd, in the same run."""
