#!/usr/bin/env bash
# The pages under docs/ as a site in runs/site, warnings as errors. Installs requirements/docs.txt into a folder of its own, .venv-docs,
# unless DOCS_VENV names one that has it. PYTHON: the interpreter to make it with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${DOCS_VENV:-.venv-docs}
if [ ! -x "$venv/bin/mkdocs" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet -r requirements/docs.txt
fi
export NO_MKDOCS_2_WARNING=1  # of the theme, about versions that are not pinned here
exec "$venv/bin/mkdocs" build --strict "$@"
