"""What makes a model: data sources, corpus, the sequential recommender, training, evaluation and export."""
