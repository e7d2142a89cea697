//! The daemon and the operator's tool: the only crate that acts.
//!
//! Everything else in the workspace decides or describes; this crate owns the disks, the sockets, the clock and the child
//! processes, and joins the parts into one program.
