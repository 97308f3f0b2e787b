//! Root file systems of snapshots: applying layers, writing them, copying between them.
