# To be sourced by scripts that make checks and end with `N passed, N failed`.

passed=0
failed=0

# check SENTENCE COMMAND...: the sentence is true if the command succeeds. Runs in this shell, so functions may be given.
check() {
    local sentence=$1 output
    shift
    if output=$("$@" 2>&1); then
        passed=$((passed + 1))
        printf 'passed: %s\n' "$sentence"
    else
        failed=$((failed + 1))
        printf 'FAILED: %s\n%s\n' "$sentence" "$(tail -n 20 <<<"$output" | sed 's/^/    /')"
    fi
}
