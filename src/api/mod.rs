//! SQL functions: check the arguments, parse, call one function, return.
