//! Links libpq, which the receiver's own connection uses.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-lib=pq");
}
