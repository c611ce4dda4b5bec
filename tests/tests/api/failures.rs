pub(crate) const TESTS: &[tests::runner::Test<()>] = &[];
