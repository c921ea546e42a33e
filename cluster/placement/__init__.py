"""Where replicas should be, and how to get there from where they are. Pure."""
