//! The binary: parse, dispatch, nothing more.

fn main() {}
