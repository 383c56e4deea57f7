"""Di, Yu, Tian 2018, "Towards Adversarial Training with Moderate Performance Improvement": random-sign training."""
