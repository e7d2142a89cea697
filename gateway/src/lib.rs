//! What people see.

pub mod backend;
