"""Side by side with what a user would pick instead. Run from the checkout: python -m benchmarks.NAME"""
