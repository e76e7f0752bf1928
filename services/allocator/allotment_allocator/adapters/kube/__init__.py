"""The cluster: nodes and pods as they are, trainers as Jobs, tenants as namespaces."""
