//! The chunk store: content-defined pieces of archives, named by BLAKE3, over any object store.
