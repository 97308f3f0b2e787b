//! Safe resolution of paths inside a root directory.
