//! The Helm chart: rendered for several sets of values, and held against the schemas of Kubernetes.
