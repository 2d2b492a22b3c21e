# What the tasks of tasks/ read from the project's own records of them (spo_rlhf/tasks). Sourced by train.sh.

# record NAME FIELD...: sets a variable for each field of a record, such as $template or $train_problem.
record() {
    local name=$1 field assignments options=()
    shift
    for field in "$@"; do options+=(--field "$field"); done
    assignments=$("$PYTHON" -m spo_rlhf.tasks show "$name" --shell "${options[@]}")
    eval "$assignments"
}

# use_task NAME HELD_OUT: prompt, reward and columns of a task, its training data, and the test data of HELD_OUT to evaluate on.
# Variables that are set already stay. A local file has the columns "problem" and "answer", and is evaluated on as well.
use_task() {
    local template reward train_prompt_dataset train_problem train_answer test_prompt_dataset
    record "$1" template reward train.prompt_dataset train.problem train.answer
    TEMPLATE=${TEMPLATE:-$template} REWARD=${REWARD:-${reward#"$PWD/"}} DATA=${DATA:-$train_prompt_dataset}
    if [[ $DATA == *.jsonl ]]; then
        INPUT_KEY=${INPUT_KEY:-problem} LABEL_KEY=${LABEL_KEY:-answer} EVAL_DATA=${EVAL_DATA:-$DATA} EVAL_SPLIT=train
    else
        record "$2" test.prompt_dataset
        INPUT_KEY=${INPUT_KEY:-$train_problem} LABEL_KEY=${LABEL_KEY:-$train_answer}
        EVAL_DATA=${EVAL_DATA:-$test_prompt_dataset} EVAL_SPLIT=test
    fi
}
