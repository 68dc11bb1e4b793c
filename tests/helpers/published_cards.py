"""Rows of our own making with the fields that the cards of published sets list."""

from tests.helpers.format_examples import THOUGHT

_S1K = {"solution": "42", "question": "6 * 7?", "cot_type": "math", "source_type": "s"}
_S1K |= {"metadata": "{}"}
CARDS = {
  "open-r1/OpenR1-Math-220k": (
    "openr1",
    {
      "problem": "6 * 7?",
      "solution": "By heart.",
      "answer": "42",
      "problem_type": "Algebra",
      "question_type": "math-word-problem",
      "source": "olympiads",
      "uuid": "u",
      "is_reasoning_complete": [True],
      "generations": [THOUGHT],
      "correctness_math_verify": [True],
      "correctness_llama": None,
      "finish_reasons": None,
      "correctness_count": 1,
      "messages": [{"role": "user", "content": "6 * 7?"}],
    },
  ),
  "nvidia/OpenMathReasoning": (
    "openmath",
    {
      "expected_answer": "42",
      "problem_type": "has_answer_extracted",
      "problem_source": "aops",
      "generation_model": "DeepSeek-R1",
      "pass_rate_72b_tir": "0.5",
      "problem": "6 * 7?",
      "generated_solution": THOUGHT,
      "inference_mode": "cot",
      "used_in_kaggle": True,
    },
  ),
  "simplescaling/s1K-1.1": (
    "s1k",
    _S1K
    | {
      "gemini_thinking_trajectory": "Other.",
      "gemini_attempt": "13",
      "deepseek_thinking_trajectory": "Six sevens.",
      "deepseek_attempt": "It is \\boxed{42}.",
      "gemini_grade": "No",
      "deepseek_grade": "Yes",
      "deepseek_grade_reason": "It is 42.",
    },
  ),
  "simplescaling/s1K": (
    "s1k_first",
    _S1K | {"cot": None, "thinking_trajectories": ["Six sevens."], "attempt": "It is \\boxed{42}."},
  ),
  "GAIR/LIMO": (
    "limo",
    {"question": "6 * 7?", "solution": "Six sevens.\n\n\\boxed{42}", "answer": "42"},
  ),
  "nvidia/AceReason-1.1-SFT": (
    "input_output",
    {"category": "math", "source": "s", "input": "6 * 7?", "output": THOUGHT},
  ),
  "nvidia/Llama-Nemotron-Post-Training-Dataset": (
    "input_output",
    {
      "input": [{"role": "user", "content": "6 * 7?"}],
      "output": THOUGHT,
      "category": "math",
      "license": "cc-by-4.0",
      "reasoning": "on",
      "generator": "DeepSeek-R1",
      "used_in_training": "yes",
      "version": "v1",
      "system_prompt": "detailed thinking on",
    },
  ),
  "Qwen/ProcessBench": (
    "processbench",
    {
      "id": "gsm8k-0",
      "generator": "Qwen2-7B-Instruct",
      "problem": "6 * 7?",
      "steps": ["Six sevens.", "It is \\boxed{42}."],
      "final_answer_correct": True,
      "label": -1,
    },
  ),
  "openai/prm800k": (
    "prm800k",
    {
      "labeler": "l",
      "timestamp": "2023-01-22",
      "generation": 9,
      "is_quality_control_question": False,
      "is_initial_screening_question": False,
      "question": {
        "problem": "6 * 7?",
        "ground_truth_solution": "42.",
        "ground_truth_answer": "42",
        "pre_generated_steps": ["Six sevens.", "42\n\n# Answer\n\n42"],
        "pre_generated_answer": "42",
        "pre_generated_verifier_score": 0.5,
      },
      "label": {
        "steps": [
          {
            "completions": [{"text": "Six sevens.", "rating": 0, "flagged": None}],
            "human_completion": None,
            "chosen_completion": 0,
          },
          {
            "completions": [{"text": "42\n\n# Answer\n\n42", "rating": -1, "flagged": None}],
            "human_completion": None,
            "chosen_completion": None,
          },
        ],
        "total_time": 1,
        "finish_reason": "found_error",
      },
    },
  ),
  "yrdu/S3-CoT-Self-Sampled-Data": (
    "s3_cot",
    {
      "instruction": "6 * 7?",
      "gold_answer": "42",
      "chain_0.0": "Six sevens, say.\n\\boxed{42}",
      "chain_-0.3": "Six sevens.\n\\boxed{42}",
      "ratios_0.0": 1.0,
      "ratios_-0.3": 0.5,
      "tokens_len_0.0": 10,
      "tokens_len_-0.3": 5,
    },
  ),
}
