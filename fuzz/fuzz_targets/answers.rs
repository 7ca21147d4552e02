#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| finetuner::fuzzing::answers(bytes));
