#!/usr/bin/env bash
# Ends a test run: says why tests failed and which, and counts. The last line is `N passed, N failed`, the status 0 if none did.
#
#   e2e/summary.sh LOG PASSED BROKEN
#
# LOG is everything that was printed, and gets these lines too; PASSED and BROKEN count what left no line there that counts.
#
# Two sorts of lines count: `test result: ok. 12 passed; 0 failed; 1 ignored; ...` of each test binary, and
# `csi-sanity xfs mount: 77 passed, 0 failed, 19 skipped` of each run of csi-sanity.
set -uo pipefail

log=$1 passed=$2 broken=$3

read -r tests failed skipped < <(awk '
    /^test result: / {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) skipped += $(i - 1)
        }
    }
    /^csi-sanity .*: [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ {
        passed += $(NF - 5); failed += $(NF - 3); skipped += $(NF - 1)
    }
    END { print passed + 0, failed + 0, skipped + 0 }' "$log")
passed=$((passed + tests))
failed=$((failed + broken))
# A run in which no test ran is none.
[ "$tests" -gt 0 ] || failed=$((failed + 1))

# Of each failed test what it said from its panic on, without the backtrace: where a log is cut short it is the end that is kept.
reasons=$(awk '
    /^failures:$/ { inside = 1; told = 0 }
    /^(successes:|test result: .*|== .*)$/ { inside = told = 0 }
    inside && /^---- .* stdout ----$/ { name = $0; told = traced = lines = 0; next }
    inside && !told && / panicked at / { told = 1; print ""; print name }
    told && /^stack backtrace:$/ { traced = 1 }
    told && !traced && lines < 60 { print; lines++ }
    traced && /^note: / { traced = 0 }' "$log")

{
    [ -z "$reasons" ] || printf '%s\n' "$reasons"
    printf '\n'
    grep -E '^test .* \.\.\. FAILED$' "$log" | sort -u
    printf '%s\n' "$skipped skipped (each with its reason above); all output is in $log" "$passed passed, $failed failed"
} >"$log.end"
tee -a "$log" <"$log.end"
rm -f "$log.end"
[ "$failed" -eq 0 ]
