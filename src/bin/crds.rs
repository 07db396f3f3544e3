//! Writes the CRDs from the Rust types to `crds/`, one file a kind: `cargo crds`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (path, text) in durable_operator::api::v1alpha1::crd_files()? {
        std::fs::write(&path, text)?;
        println!("wrote {path}");
    }
    Ok(())
}
