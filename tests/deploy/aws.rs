//! The templates for AWS, and the queries over a real archive.
