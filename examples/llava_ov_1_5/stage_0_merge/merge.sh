#!/bin/sh
# Stage 0: RICE and a language model become stage_0_merge/model, with a new merger. Other sizes: another LLM
# (Qwen3-8B, Qwen3-14B, …). --untie gives 4B, whose language model is tied, the head of its own that the released model has;
# where nothing is tied it changes nothing.
set -eu
: "${RICE:?the folder of rice-vit-large-patch14-560}" "${LLM:?the folder of the language model, such as Qwen3-4B-Instruct-2507}"
exec "${OVHOST:-ovhost}" model merge --vision "$RICE" --llm "$LLM" --untie --out "$(dirname "$0")/model" "$@"
