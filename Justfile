# List the recipes
default:
    @just --list

# Everything that CI does
check:
    scripts/test

# Run pytest with options
test *options:
    scripts/test {{options}}

# Format check, lint, types, import layers, plain words
lint:
    scripts/lint

# Format the code
fmt:
    .venv/bin/ruff format .
    .venv/bin/ruff check --fix .

# Run the demo: the main job, end to end
demo:
    scripts/demo

# Fuzz what hostile peers can send; see docs/fuzzing.md
fuzz *options:
    scripts/fuzz {{options}}

# Change the code in small ways and see whether a test fails; see docs/reliability.md
mutate *options:
    scripts/mutate {{options}}

# Measure against upstream's Rust proxy, interleaved
bench *options:
    scripts/bench {{options}}

# Run a command under another kernel; see docs/virtual-machine.md
vm *options:
    scripts/vm {{options}}
