//! The same core without hyper: a pure discrete-event world, for volume.
