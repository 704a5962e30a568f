"""What `docs/results.md` needs beside training and ranking: other people's models, ablations, figures over time.

Nothing here decides what a trained bundle holds, so nothing here changes the key under which bundles are kept.
"""
