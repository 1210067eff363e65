"""What fits and moves by turns: baselines distilled."""
