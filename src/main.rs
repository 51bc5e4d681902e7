//! Arguments to [`palisade::cli`], nothing else.

fn main() -> std::process::ExitCode {
    palisade::cli::main()
}
