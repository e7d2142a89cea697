//! What is true of the catalog after every command, one property per file. Tests, simulations and fault injection check
//! the same functions.
