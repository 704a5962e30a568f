"""The simulator's language: words of each topic, of each tone of a comment, and words that say nothing.

Words of a topic are in order of frequency: the r-th is drawn with a probability proportional to 1 / r (Zipf).
"""

from __future__ import annotations

TOPICS: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "baking": "bread sourdough oven crust flour dough yeast cake butter pastry crumb loaf whisk icing "
        "vanilla croissant rye muffin knead sugar cinnamon brioche baguette tart",
        "football": "goal match striker keeper penalty league derby pitch corner offside midfield coach "
        "header cup transfer tackle stadium winger referee dribble kickoff defender freekick relegation",
        "gaming": "boss level console speedrun controller quest loot raid patch multiplayer respawn pixel "
        "dungeon checkpoint glitch sandbox lobby joystick inventory arcade combo leaderboard mod crafting",
        "gardening": "tomato soil seeds compost pruning roses mulch seedling harvest bulbs greenhouse weeds "
        "trellis perennial watering basil lawn hedge tulips slugs fertiliser pot bloom orchard",
        "cats": "kitten purr whiskers paws meow litter tabby scratching feline nap catnip fur tail pounce "
        "windowsill siamese hiss yarn groom tuxedo vet hairball stray calico",
        "cycling": "bike ride saddle pedal chain climb gravel peloton helmet gears sprint tyres wheel "
        "commute derailleur cadence frame tandem velodrome jersey descent spokes crank bikepacking",
        "astronomy": "stars planet telescope galaxy comet eclipse orbit moon nebula rocket saturn meteor "
        "supernova constellation astronaut jupiter lander gravity observatory asteroid cosmos satellite equinox "
        "exoplanet",
        "guitar": "chord riff solo strings amp fret pickup tuning strum pedalboard acoustic melody capo "
        "blues fingerstyle vibrato bass scale setlist tone plectrum humbucker arpeggio ballad",
        "makeup": "lipstick eyeliner foundation eyeshadow blush mascara glow brushes concealer contour "
        "shimmer primer lashes skincare highlighter nude gloss brows powder serum sunscreen cleanser matte swatch",
        "travel": "train passport hostel island backpack beach temple itinerary flight market border sunset "
        "ferry jetlag souvenir hike village visa lighthouse bazaar roadtrip lagoon suitcase guidebook",
        "coding": "python compiler bug function keyboard debugger server terminal refactor loop script "
        "variable database deploy recursion stack regex framework syntax algorithm kernel thread commit linter",
        "fitness": "squat deadlift plank reps cardio stretch warmup barbell muscle sweat pushup kettlebell "
        "trainer gym mobility posture burpee treadmill protein hamstring lunge stamina dumbbell recovery",
        "painting": "canvas watercolour brush palette sketch portrait oil easel pigment gallery charcoal "
        "landscape acrylic ink shading texture mural gouache pastel varnish gesso stilllife gradient fresco",
        "carpentry": "wood plane chisel joint saw oak workbench sanding dovetail clamp walnut drawer "
        "varnishing lathe router plywood mallet shelf cabinet veneer mortise dowel bandsaw pine",
        "history": "castle empire roman viking museum archive siege emperor medieval treaty manuscript "
        "pharaoh knights dynasty excavation crusade revolution ruins chronicle monarch armour trench colony relic",
        "fashion": "dress denim runway vintage jacket outfit thrift sneakers tailor silk wardrobe scarf "
        "streetwear boots linen catwalk pleats accessories corset knitwear lookbook hem cardigan sequins",
        "fishing": "trout lure river reel bait carp hook cast pike perch boat shoreline fly salmon rod "
        "angler wader lake spinner float bobber catfish sonar net",
        "chess": "opening gambit checkmate knight bishop endgame rook blunder pawn castling grandmaster "
        "sacrifice tactics sicilian zugzwang pin fork rating blitz stalemate skewer fianchetto tempo queenside",
        "dance": "choreography salsa ballet tango rhythm hiphop spin studio partner footwork leap waltz "
        "freestyle shuffle pirouette rehearsal stage groove pointe cypher breakdance bachata routine recital",
        "robots": "motor sensor arduino servo circuit drone battery solder actuator gripper lidar chassis "
        "firmware voltage gyroscope encoder autonomous swarm torque wiring printer prototype quadcopter "
        "breadboard",
    }.items()
}

TONES: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "funny": "lol haha joke hilarious laughing meme cracked silly banter giggle ridiculous comedy",
        "critical": "wrong boring overrated disagree mistake misleading lazy disappointing clickbait worse "
        "fails nonsense",
        "helpful": "tip source timestamp explained actually step advice detail summary link recommend guide",
        "warm": "love thanks beautiful wonderful lovely amazing grateful proud congratulations inspiring sweet heart",
        "curious": "why how question wonder anyone when which curious where explain possible tell",
    }.items()
}

#: Words without a topic, in order of frequency.
_FILLERS = (
    "the my this with and best new day for first one more after in every real time big little last part again "
    "week still without before old easy perfect another from just made today finally never full about behind "
    "secret second year almost two tiny great whole simple over ten under three back quick"
)
FILLERS: tuple[str, ...] = tuple(_FILLERS.split())

TITLE_PATTERNS: tuple[str, ...] = (
    "How to {} {} {} {}",
    "{} {} {} {}",
    "My {} {} {} {}",
    "{} vs {}: {} {}",
    "Why {} {} {} {}",
    "{}, {} and {} {}",
    "I tried {} {} {} {}",
    "The {} {} {} {}",
)
