"""A row of every format of `chains.formats.FORMATS`."""

THOUGHT = "<think>\nSix sevens.\n</think>\n\nThe answer is \\boxed{42}."

EXAMPLES = {
  "chain": {"id": "a", "question": "6 * 7?", "reasoning": "Six sevens.\n", "answer": "So 42."},
  "pruner": {
    "user_prompt": "6 * 7?",
    "response_reason": "Six sevens.\n",
    "response_answer": '{"answer": "42"}',
  },
  "gsm8k": {"question": "6 * 7?", "answer": "Six sevens are <<6*7=42>>42.\n#### 42"},
  "messages": {
    "messages": [
      {"role": "user", "content": "6 * 7?"},
      {"role": "assistant", "reasoning_content": "Six sevens.", "content": "It is 42."},
    ]
  },
  "sharegpt": {
    "conversations": [
      {"from": "human", "value": "6 * 7?"},
      {"from": "gpt", "value": THOUGHT},
    ]
  },
  "input_output": {"input": "6 * 7?", "output": THOUGHT, "category": "math"},
  "prompt_response": {"prompt": "6 * 7?", "response": THOUGHT},
  "prompt_completion": {"prompt": [{"role": "user", "content": "6 * 7?"}], "completion": THOUGHT},
  "alpaca": {"instruction": "Multiply.", "input": "6 and 7", "output": THOUGHT},
  "openmath": {
    "problem": "6 * 7?",
    "generated_solution": THOUGHT,
    "expected_answer": "42",
    "inference_mode": "cot",
  },
  "s1k": {
    "question": "6 * 7?",
    "solution": "42",
    "deepseek_thinking_trajectory": "Six sevens.",
    "deepseek_attempt": "It is \\boxed{42}.",
  },
  "s1k_first": {
    "question": "6 * 7?",
    "thinking_trajectories": ["Six sevens."],
    "attempt": "It is \\boxed{42}.",
  },
  "openr1": {
    "problem": "6 * 7?",
    "solution": "Known by heart: 42.",
    "answer": "42",
    "uuid": "u",
    "generations": [THOUGHT, "<think>\nSix and seven.\n</think>\n\nIt is \\boxed{13}."],
    "correctness_math_verify": [True, False],
    "is_reasoning_complete": [True, True],
    "messages": [{"role": "user", "content": "6 * 7?"}],
  },
  "limo": {"question": "6 * 7?", "solution": "Six sevens.\n\n\\boxed{42}", "answer": "42"},
  "mmlu_pro": {
    "question_id": 1,
    "question": "6 * 7?",
    "options": ["42", "13"],
    "answer": "A",
    "cot_content": "A: Let's think step by step. Six sevens. The answer is (A).",
  },
  "prm800k": {
    "labeler": "l",
    "question": {"problem": "6 * 7?", "ground_truth_answer": "42"},
    "label": {
      "steps": [
        {"completions": [{"text": "Six sevens.", "rating": 1}], "chosen_completion": 0},
        {"completions": [{"text": "So 42.\n\n# Answer\n\n42", "rating": 1}]},
      ]
    },
  },
  "processbench": {
    "problem": "6 * 7?",
    "steps": ["Six sevens.", "It is \\boxed{42}."],
    "label": -1,
  },
  "thought_anchors": {
    "problem.json": {"problem": "6 * 7?", "gt_answer": "42"},
    "base_solution.json": {
      "prompt": "Problem: 6 * 7? Solution: \n<think>\n",
      "solution": "Six sevens.\n</think>\n\nIt is \\boxed{42}.",
      "is_correct": True,
    },
    "chunks_labeled.json": [{"chunk": "Six sevens.", "counterfactual_importance_kl": 0.5}],
  },
  "s3_cot": {
    "instruction": "6 * 7?",
    "gold_answer": "42",
    "chain_0.0": "Six sevens are forty-two.\nIt is \\boxed{42}.",
    "chain_-0.5": "Sevens.\nIt is \\boxed{42}.",
    "ratios_0.0": 1.0,
    "ratios_-0.5": 0.5,
  },
}
